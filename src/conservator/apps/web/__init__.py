"""The page: a photo or a folder restored in the browser, by people who never open a terminal.

It knows nothing that the restorer does not: the files here lay it out, follow what happens, and show it.
"""
