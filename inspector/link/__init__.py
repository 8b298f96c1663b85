"""The controller's link and the viewers' socket: bytes, sockets, keys."""
