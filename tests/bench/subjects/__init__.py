"""The apps whose workers the delivery benches measure; the workers run in this folder. `send(count)` fills a queue."""
