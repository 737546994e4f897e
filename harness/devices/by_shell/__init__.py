"""What a dialect needs on a device that has a POSIX shell and no Python: files and the lease."""
