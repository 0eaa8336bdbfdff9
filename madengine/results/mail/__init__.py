"""Results by e-mail: the message, and the server that takes it."""
