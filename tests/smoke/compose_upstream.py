"""The upstream of test_compose.py: runs in a container of the stack, where only the image's Python is.

The first request of a prompt "hold ..." is held until somebody posts to /release, its next is answered; "slow ..."
takes two seconds. Each line of output says who asked for what.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

seen: set[str] = set()
released = threading.Event()


class Chat(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/release":
            released.set()
            self.answer({})
            return
        prompt = body["messages"][0]["content"]
        sys.stdout.write(json.dumps({"prompt": prompt, "client": self.client_address[0]}) + "\n")
        sys.stdout.flush()
        if prompt.startswith("hold") and prompt not in seen:
            seen.add(prompt)
            released.wait(60)
        if prompt.startswith("slow"):
            time.sleep(2)  # the length of the work, which the test stops a worker in
        self.answer({"model": "test", "choices": [{"message": {"content": prompt.upper()}}]})

    def answer(self, reply: dict[str, Any]) -> None:
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """The lines above are the log."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Chat).serve_forever()
