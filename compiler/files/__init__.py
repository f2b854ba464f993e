"""The file system: the content-addressed cache, the atomic swap of directories, positional reads."""
