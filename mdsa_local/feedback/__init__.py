"""What users made of answers: an optional log of answers on disk, and marks of right and wrong that become examples, questions and pairs.

:class:`~mdsa_local.feedback.store.Feedback` keeps both in ``$MDSA_HOME/feedback.db``; :mod:`~mdsa_local.feedback.export` says what they become.
"""
