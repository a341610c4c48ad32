"""One script per paper, and what they share.

They import the library, ``analysis`` and each other's shared folders; nothing but the tests imports them.
"""
