"""Every word that crosses a process boundary: references, events, keys, jobs. Pure: the standard library and msgspec,
no I/O.
"""
