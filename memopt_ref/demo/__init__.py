"""The main job, ``memopt compare``: a word-level language model on real text, trained by several optimizers.

``corpus`` reads text, ``model`` is the network, ``train`` is one run, ``contenders`` says who runs,
``compare`` runs them all, ``directions`` holds the outcome against the papers, ``report``, ``page`` and
``plots`` show it.
"""
