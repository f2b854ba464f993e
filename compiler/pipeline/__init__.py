"""What a pass is, and the steps of a pipeline run over a module with every claim of a pass checked."""
