"""Whether the theorems hold (imported as memopt_ref.theory).

* :mod:`.play`: a game, a rule, a trace. The rules are the library's own.
* :mod:`.geometry`, :mod:`.comparators`, :mod:`.losses`, :mod:`.games`, :mod:`.problems`: where one plays, for
  what, against whom.
* :mod:`.chain`, :mod:`.ledger`, :mod:`.leaders`, :mod:`.moments`, :mod:`.virtual`: the exact decompositions
  of regret, and proofs as chains of named values.
* :mod:`.bounds`: one file a family of rules, one object a theorem.
* :mod:`.players`: algorithms that are no optimizer of this library.
* :mod:`.verify`, :mod:`.suites`: verdicts, records, and lists of plays with the verdicts that are right.
* :mod:`.arenas`, :mod:`.search`, :mod:`.witness`, :mod:`.exact`: where a bound is attacked, worst loss
  sequences, and their exact replay.
* :mod:`.constants`: between what the true constants are known to lie.
* :mod:`.mutants`, :mod:`.wrong_rules`, :mod:`.wrong_statements`: what is wrong, and what catches it.
* :mod:`.kernels`, :mod:`.foreign`: fast kernels with their own iterates, and other libraries as black boxes.
* :mod:`.report`, :mod:`.exhibits`, :mod:`.catalogue`: the page, what it shows, and the documentation's table.

Importing this package imports NumPy alone; SciPy is loaded by the three functions that need it.
"""
