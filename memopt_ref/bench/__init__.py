"""How fast the kernels are: against the memory's limit and other libraries, in one process and in turn.

Read in this order: :mod:`.rows` (what is measured, and where it should come out), :mod:`.limit` and
:mod:`.tracks` (the limit, our steps, and figures that every machine reproduces), :mod:`.peers` (other
libraries' steps), :mod:`.measure` (who takes turns with whom), :mod:`.machine` (where, and whether something
else ran meanwhile). The stop-watch is :mod:`memopt_ref.backends.timing`.
"""
