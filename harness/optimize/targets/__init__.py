"""What a target takes, and its vendor's compiler: a file a target."""
