"""The shapes of what is asked and answered: chat completions, Responses, embeddings and the others."""
