"""What the reference library of Standard Webhooks says of requests, a line of JSON each: `genuine`, or why not."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    request = json.loads(line)
    try:
        Webhook(request["secret"]).verify(request["body"], request["headers"])
        print("genuine", flush=True)
    except WebhookVerificationError as error:
        print(error, flush=True)
