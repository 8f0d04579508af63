"""How fast the kernels are: against the memory's limit and other libraries, in one process and in turn.

Read in this order: :mod:`.rows` (what is measured, and where it should come out), :mod:`.limit` and
:mod:`.tracks` (the limit, our steps, and figures that every machine reproduces), :mod:`.peers` (other
libraries' steps), :mod:`.measure` (who takes turns with whom), :mod:`.machine` (where, and whether something
else ran meanwhile); :mod:`.gpu_rows` and :mod:`.gpu` (the same for a GPU). The stop-watch is
:mod:`memopt_ref.backends.timing`.

What becomes of it over the commits: :mod:`.history` (what asv recorded), :mod:`.tracks_cuda` (what CUDA
kernels cost), :mod:`.agreement` (whether two runs agree), :mod:`.dashboard` (the page), and :mod:`.gate`,
which a kernel that has become slower does not pass.
"""
