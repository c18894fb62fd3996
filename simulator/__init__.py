"""A stand-in for Azure OpenAI and API Management on loopback, reached only over HTTP."""
