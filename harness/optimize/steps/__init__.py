"""One recipe step per file; steps never import each other."""
