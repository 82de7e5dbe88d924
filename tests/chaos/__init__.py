"""The kill campaign: workers under load are killed at random instants, and the log says what became of every task."""
