"""Kernels for CuPy's arrays, as CUDA C text that is also run and checked where there is no GPU.

Read in this order: :mod:`.elementwise` (a step of a rule that is one expression), :mod:`.engine` (which
kernel, grid and arguments), :mod:`.bind` and :mod:`.trace` (the expression becomes text), the templates
``packed.cu``, ``strided.cu`` and ``table.cu`` with ``common.cuh`` before them; then :mod:`.many` (many
tensors in one launch), :mod:`.sm3`, :mod:`.sm3_engine`, :mod:`.sm3_bind` and ``sm3*.cu``; :mod:`.passes`
and :mod:`.folds` (sums in the reference's order), on which stand :mod:`.row_wise`, :mod:`.adafactor` and
:mod:`.low_rank` (with :mod:`.factors`), :mod:`.error_feedback` (``top_k*.cu``, ``feedback*.cu``);
:mod:`.count_sketch`, its ``count_sketch_*.py`` and ``count_sketch*.cu``; :mod:`.microadam`, its engine,
texts and ``microadam*.cu``; :mod:`.leaves`, :mod:`.prepare`, :mod:`.gradients` and :mod:`.state` (what an
optimizer needs around a step); then what a GPU adds: :mod:`.device`, :mod:`.cupy_device`, :mod:`.nvrtc`,
:mod:`.store`. What has no kernel is stepped by :mod:`memopt_ref.backends.cupy_host`. Importing this loads
neither CuPy nor NVRTC.

How a family of kernels is made:

* The text is one ``extern "C" __global__`` function a file, ``family_part.cu``, behind ``common.cuh``: plain
  pointers and numbers, nothing included, no ``double`` literal, full masks, one trip count around whatever
  lanes do together, no atomics on floating-point numbers, nothing that waits for another block. Blocks that
  need each other's results are two launches. Every number that is unrolled over is a definition (``BLOCK``,
  ``VEC``); sizes and hyper-parameters are arguments, computed on the host in float64 and rounded once.
* ``family_bind.py`` makes :class:`~.kernel.Kernel` values of it, one a dtype and shape, cached.
* ``family_engine.py`` chooses grids and arguments and calls ``device.launch``. It takes the device as its
  first argument and arrays of NumPy or CuPy alike, so that the tests run what ships; scalars are NumPy's, of
  exactly the kernel's types. What is computed between launches has kernels too: CuPy's own flush subnormal
  numbers. A :class:`~.bind.Shape` is all that a tuner may change, and changes no bit.
* ``family.py`` says what is supported, checks the arrays, and offers ``VARIANTS``.
* The tests compare with the reference bit for bit in the simulator, in several orders and at the shipped
  shape; the kernels are added to the gate's list (``tests/cupy_gpu/gate.py``: registers, spills and code by
  NVRTC) and their mistakes to the mutants.
"""

from . import adafactor, count_sketch, elementwise, error_feedback, low_rank, microadam, row_wise, sm3

VARIANTS = (
    *elementwise.VARIANTS,
    *sm3.VARIANTS,
    *adafactor.VARIANTS,
    *row_wise.VARIANTS,
    *error_feedback.VARIANTS,
    *low_rank.VARIANTS,
    *count_sketch.VARIANTS,
    *microadam.VARIANTS,
)

__all__ = ["VARIANTS"]
