"""Makers of the data inside the package, each from a Debian package with its content checked.

They import the library's files and data; nothing imports them.
"""
