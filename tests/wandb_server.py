"""As much of W&B's server as uploads, workspaces, reports and a sweep of one project need, on this machine."""

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "a" * 40


@dataclass
class Received:
    """What was uploaded of a run."""

    about: dict[str, Any] = field(default_factory=dict)  # variables of the request that makes the run
    history: list[dict[str, Any]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    artifacts: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    preempting: bool = False


@dataclass
class Server:
    address: str
    runs: dict[str, Received] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)  # ids of runs
    sweep: dict[str, Any] = field(default_factory=dict)  # as `wandb sweep` has sent it
    waiting: list[dict[str, Any]] = field(default_factory=list)  # what the sweep's agent is told next
    stop: set[str] = field(default_factory=set)  # runs of the sweep that it stops once they have logged

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY}


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    class Handler(_Handler):
        pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.handle_error = lambda *_: None  # type: ignore[method-assign]  # W&B hangs up without a word
    Handler.server_state = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield Handler.server_state
    finally:
        http.shutdown()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_PUT(self) -> None:
        _, _, run, name = self.path.split("/", 3)
        self.body()
        self.server_state.runs[run].files.add(name)
        self.answer({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            asked = json.loads(body)
            name = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            status, reply = self.graphql(name, asked["query"], asked.get("variables") or {})
            self.answer(reply, status)
            return
        if self.path.endswith("/file_stream"):
            sent = json.loads(body)
            run = self.server_state.runs[self.path.split("/")[-2]]
            lines = sent.get("files", {}).get("wandb-history.jsonl")
            if lines:
                assert lines["offset"] == len(run.history)
                run.history += [json.loads(line) for line in lines["content"]]
            for line in sent.get("files", {}).get("wandb-summary.json", {}).get("content", []):
                run.summary |= json.loads(line)
            run.preempting |= bool(sent.get("preempting"))
            if sent.get("complete"):
                run.exit_codes.append(sent["exitcode"])
        self.answer({})

    def graphql(self, name: str, query: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        server = self.server_state
        if name == "RunResumeStatus":
            return 200, {"data": {"model": self.stored(given["name"])}}
        if name == "UpsertBucket":
            if given["name"] in server.refuse:
                return 403, {"errors": [{"message": "permission denied"}]}
            known = given["name"] in server.runs
            run = server.runs.setdefault(given["name"], Received(given))
            project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": given["name"], "name": given["name"], "displayName": run.about["displayName"]}
            bucket |= {"config": given["config"], "project": project, "historyLineCount": len(run.history)}
            return 200, {"data": {"upsertBucket": {"bucket": bucket, "inserted": not known}}}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{server.address}/up/{given['run']}/{f}"} for f in given["files"]]
            return 200, {"data": {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}}
        if name == "CreateArtifact":
            made = given["input"]
            server.runs[made["runName"]].artifacts.append(made["artifactTypeName"])
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return 200, {"data": {"createArtifact": {"artifact": artifact}}}
        if name == "UpsertSweep":
            server.sweep = yaml.safe_load(given["config"])
            project = {"id": "p", "name": given["projectName"], "entity": {"id": "e", "name": "me"}}
            sweep = {"name": "sweep1", "project": project}
            return 200, {"data": {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}}
        if name == "SweepWithRuns":
            sweep = {"id": "s", "config": yaml.safe_dump(server.sweep), "runs": {"edges": []}}
            return 200, {"data": {"project": {"sweep": sweep}}}
        if name == "CreateAgent":
            return 200, {"data": {"createAgent": {"agent": {"id": "agent"}}}}
        if name == "Heartbeat":
            running = json.loads(given["runState"])
            stopped = [run for run in running if run in server.stop and run in server.runs and server.runs[run].history]
            commands = [{"type": "stop", "run_id": run} for run in stopped]
            if not running and server.waiting:
                commands.append(server.waiting.pop(0))
            return 200, {"data": {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}}
        if name == "ProjectArtifactType":
            return 200, {"data": {"project": {"artifactType": None}}}
        if name in ("Viewer", "GetDefaultEntity"):
            viewer = {"id": "v", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
            return 200, {"data": {"viewer": viewer}}
        if "upsertView" in query:
            server.views.append(given)
            view = {key: given[key] for key in ("name", "displayName", "description", "type", "spec") if key in given}
            view |= {"id": given.get("id") or f"view{len(server.views)}", "createdAt": None, "updatedAt": None}
            view["project"] = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
            return 200, {"data": {"upsertView": {"view": view, "inserted": True}}}
        if name == "GetProjects":
            project = {"__typename": "Project", "id": "p", "name": "proj", "entityName": given["entity"]}
            project |= {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return 200, {"data": {"models": {"pageInfo": page, "edges": [{"node": project}]}}}
        if "internalId" in query:
            return 200, {"data": {"project": {"internalId": "p1"}}}
        return 200, {"data": {}}

    def stored(self, run_id: str) -> dict[str, Any] | None:
        run = self.server_state.runs.get(run_id)
        if run is None:
            return None
        bucket = {"id": run_id, "name": run_id, "displayName": run.about["displayName"], "summaryMetrics": "{}"}
        bucket |= {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "config": "{}", "tags": []}
        bucket |= {"historyLineCount": len(run.history), "wandbConfig": "{}", "notes": None}
        bucket["historyTail"] = json.dumps([json.dumps(row) for row in run.history[-1:]])
        return {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
