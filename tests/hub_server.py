"""The few routes of Hugging Face's hub that a model goes through, spoken by a real HTTP server on loopback."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import ModelCard

TOKEN = "hf_of_someone"


@dataclass
class Repo:
    """`commits`: from a commit's name to the files that it holds, in order; `main` is the last one."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)  # files that are stored by their SHA-256

    def commit(self, files: dict[str, bytes]) -> str:
        before = list(self.commits.values())[-1] if self.commits else {}
        name = hashlib.sha1(f"{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = {**before, **files}
        return name

    def find(self, revision: str) -> str | None:
        return list(self.commits)[-1] if revision == "main" else revision if revision in self.commits else None


class HubServer:
    """`repos` by "owner/name"; `asked` has "METHOD path" of every request, `agents` what each called itself."""

    def __init__(self) -> None:
        self.repos = dict[str, Repo]()
        self.blobs = dict[str, bytes]()  # uploaded, by SHA-256
        self.asked, self.agents = list[str](), set[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_any(self) -> None:
                url = urlsplit(self.path)
                hub.asked.append(f"{self.command} {url.path}")
                hub.agents.add(self.headers.get("User-Agent", ""))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, headers, content = hub.answer(self.command, url.path, body, allowed)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = do_any  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(  # noqa: PLR0911 - a route a return
        self, method: str, path: str, body: bytes, allowed: bool
    ) -> tuple[int, dict[str, str], bytes]:
        words = path.strip("/").split("/")
        if path == "/api/validate-yaml":  # of a README
            front: Any = ModelCard(json.loads(body)["content"]).data
            errors = [] if front.to_dict() else [{"message": "no front matter"}]
            return 200, {}, as_json({"errors": errors, "warnings": []})
        if method == "POST" and not allowed:
            return failed(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'someone'}/{asked['name']}"
            there = name in self.repos
            self.repos.setdefault(name, Repo()).commits.setdefault("0" * 40, {".gitattributes": b"*"})
            return (409 if there else 200), {}, as_json({"url": f"{self.url}/{name}", "error": "there already"})
        if words[0] == "uploads":
            self.blobs[words[1]] = body
            return 200, {}, b""
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.url}/uploads/{one['oid']}"}}
            return 200, {}, as_json({"transfer": "basic", "objects": objects})
        if words[:2] == ["api", "models"]:
            return self.of_repo("/".join(words[2:4]), words[4:], body)
        if words[2:3] != ["resolve"]:
            return failed(404, "", f"{method} {path}: a route that this server does not speak")
        return self.resolve("/".join(words[:2]), words[3], "/".join(words[4:]))

    def of_repo(self, name: str, words: list[str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        repo = self.repos.get(name)
        if repo is None:
            return failed(404, "RepoNotFound", "Repository not found")
        if words[:1] == ["preupload"]:
            files = json.loads(body)["files"]
            kinds = {one["path"]: "lfs" if one["path"].endswith(".safetensors") else "regular" for one in files}
            answer = [{"path": path, "uploadMode": kind, "shouldIgnore": False} for path, kind in kinds.items()]
            return 200, {}, as_json({"files": answer})
        if words[:1] == ["commit"]:
            files = dict[str, bytes]()
            for line in filter(None, body.splitlines()):
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.blobs[value["oid"]]
                    repo.large.add(value["path"])
            made = repo.commit(files)
            return (
                200,
                {},
                as_json({"commitUrl": f"{self.url}/{name}/commit/{made}", "commitOid": made, "success": True}),
            )
        commit = repo.find(words[1]) if len(words) > 1 else repo.find("main")
        if commit is None:
            return failed(404, "RevisionNotFound", "Invalid rev id")
        if words[:1] == ["tree"]:
            held = repo.commits[commit]
            tree = [{"type": "file", "path": path, "oid": sha1(data), "size": len(data)} for path, data in held.items()]
            return 200, {}, as_json(tree)
        info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in repo.commits[commit]]}
        return 200, {}, as_json(info)

    def resolve(self, name: str, revision: str, file: str) -> tuple[int, dict[str, str], bytes]:
        repo = self.repos.get(name)
        if repo is None:
            return failed(404, "RepoNotFound", "Repository not found")
        commit = repo.find(revision)
        if commit is None:
            return failed(404, "RevisionNotFound", "Invalid rev id")
        content = repo.commits[commit].get(file)
        if content is None:
            return failed(404, "EntryNotFound", "Entry not found", commit)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha1(content)}"', "Accept-Ranges": "bytes"}
        if file in repo.large:
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        return 200, headers, content


def failed(status: int, code: str, message: str, commit: str = "") -> tuple[int, dict[str, str], bytes]:
    headers = {"X-Error-Code": code, "X-Error-Message": message} | ({"X-Repo-Commit": commit} if commit else {})
    return status, {name: value for name, value in headers.items() if value}, as_json({"error": message})


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
