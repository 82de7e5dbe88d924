"""What happened: event types, clean observations made of Celery's raw signals, and sinks that show events to people.

This package knows Celery's signals and nothing of breakers. Import its parts by name:
`signals.events`, `signals.bus`, `signals.receivers`, `signals.redact`, `signals.sinks.*`.
"""

DISTRIBUTION = "celeriac"  # by this `resilience` knows that no other module of the name stands in front
