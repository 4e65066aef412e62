"""Signs what schemathesis sends to the sender's address, whatever it made up for the signature."""
import os

import schemathesis

from relay import signature


class Signed:
    def __call__(self, request):
        body = request.body or b""
        request.headers.update(signature(body.encode() if isinstance(body, str) else body))
        return request


if os.environ.get("SIGNED"):
    schemathesis.auth.set_from_requests(Signed())
