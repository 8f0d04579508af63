"""Whether the theorems hold (imported as memopt_ref.theory).

* :mod:`.play`: a game, a rule, a trace. The rules are the library's own.
* :mod:`.geometry`, :mod:`.losses`, :mod:`.games`, :mod:`.problems`: where one plays, for what, against whom.
* :mod:`.chain`, :mod:`.ledger`, :mod:`.virtual`: the exact decompositions of regret, and proofs as chains of
  named values.
* :mod:`.bounds`: one file a family of rules, one object a theorem.
* :mod:`.players`: algorithms that are no optimizer of this library.
* :mod:`.verify`, :mod:`.suites`: verdicts, records, and lists of plays with the verdicts that are right.
* :mod:`.search`, :mod:`.witness`, :mod:`.exact`: worst loss sequences, and their exact replay.
* :mod:`.constants`: between what the true constants are known to lie.
* :mod:`.mutants`, :mod:`.wrong_rules`: wrong rules, and the check that catches each.
* :mod:`.kernels`, :mod:`.foreign`: fast kernels with their own iterates, and other libraries as black boxes.
* :mod:`.report`, :mod:`.exhibits`, :mod:`.catalogue`: the page, what it shows, and the documentation's table.

Importing this package imports NumPy alone; SciPy is loaded by the two functions that need it.
"""
