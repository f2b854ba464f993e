"""`edgec init`: a first plan for a model and a device that holds, with a comment on each line that says why."""
