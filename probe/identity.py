"""Microsoft Entra tokens for targets without an API key, through azure-identity.

One provider a process: it caches its token and fetches the next one before the old one expires.
"""

import logging
from collections.abc import Callable

from probe.target import SettingsError

# The scope of Azure OpenAI's data plane, on the dated paths and on v1 alike.
SCOPE = "https://cognitiveservices.azure.com/.default"


def token_provider() -> Callable[[], str]:
    """A function that gives a valid token, after the first one has been fetched. Raises `SettingsError`."""
    # Imported here: it takes 0.6 s, and most users come with a key.
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential, get_bearer_token_provider

    # What it would log on several lines is in the one line below.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    provider = get_bearer_token_provider(DefaultAzureCredential(), SCOPE)
    try:
        provider()
    except ClientAuthenticationError as error:
        reason = str(error.message).splitlines()[0]
        raise SettingsError(f"no Microsoft Entra token: {reason}; run `az login`, or set an API key") from None
    return provider
