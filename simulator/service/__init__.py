"""Azure OpenAI: its resources, their deployments, and what those admit, take and answer."""
