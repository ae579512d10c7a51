"""What an acceptance run asks of a model, one file a question, answered as evidence."""
