"""A second engine beside the live one: judged in idle time after the answer has left, logged, never sent.

records.py   what goes to the shadow's process and what comes back; what counts as a flip
process.py   the shadow's own process: idle priority, one engine, one file of results
book.py      that file, and how it is read
child.py     the line's side of the process
gate.py      holds the process still while a part is in the line
life.py      one run of the process
counts.py    what it has done so far
keeper.py    the thread that hands over, hears, and starts again what failed

Nothing is imported here: the process takes idle priority before it loads anything heavy.
"""
