"""One observed call to Azure OpenAI: what was sent, what came back, and when."""
