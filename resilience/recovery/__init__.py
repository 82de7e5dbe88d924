"""Where work goes when something breaks: decisions (pure), failover between queues, and the parking place."""
