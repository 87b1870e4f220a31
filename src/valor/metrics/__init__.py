"""Metrics: pure functions of arrays and texts, with numpy alone.

`retrieval` scores a similarity matrix, `captioning` texts against reference texts (tokenised by
`ptb`), `answering` short answers. No function knows a model, prints or rounds; rates are fractions
in [0, 1]. A metric that is not computed here (METEOR, SPICE) is absent from a report, never zero.
States that several processes count apart (`BleuCounts`, `Accuracy`) add up with `merge`, in any
order, and give the number with `compute`.
"""
