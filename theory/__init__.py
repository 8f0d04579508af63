"""Whether the theorems hold (imported as memopt_ref.theory).

* :mod:`.play`: a game, a rule, a trace. The rules are the library's own.
* :mod:`.geometry`, :mod:`.losses`, :mod:`.games`: where one plays, for what, and against whom.
* :mod:`.chain`, :mod:`.ledger`: the exact decomposition of regret, and proofs as chains of named values.
* :mod:`.bounds`: one file a family of rules, one object a theorem.
* :mod:`.players`: algorithms that are no optimizer of this library.
* :mod:`.verify`, :mod:`.suites`: verdicts, records, and lists of plays with the verdicts that are right.
* :mod:`.search`, :mod:`.witness`, :mod:`.exact`: worst loss sequences, and their exact replay.
* :mod:`.mutants`, :mod:`.wrong_rules`: wrong rules, and the check that catches each.

Importing this package imports NumPy alone; SciPy is loaded by the two functions that need it.
"""
