"""What makes the data inside the package, each from a Debian package with its content checked."""
