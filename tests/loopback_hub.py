"""A small Hugging Face Hub on 127.0.0.1, for tests that push and pull over real HTTP.

It speaks the part of the Hub's HTTP API that huggingface_hub and datasets use for models and data sets: repositories
with commits, branches and pull requests, small files inside the commits and large ones as LFS objects. Everything is
held in memory.

    with LoopbackHub() as hub:
        ...  # a process with HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1, HF_TOKEN=any and its own HF_HOME
        hub.files("tester/model")  # {"config.json": b"...", ...}
        hub.files("datasets/tester/news")  # a data set's name starts so
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

USER = "tester"
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".parquet")


@dataclass(frozen=True)
class File:
    data: bytes
    is_lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """The git blob id, by which a client sees that a small file has not changed."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid


@dataclass
class Repository:
    """Commits, each a whole tree, and the refs that point to them."""

    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: int = 0

    def commit(self, ref: str, tree: dict[str, File]) -> str:
        content = repr((ref, len(self.commits), sorted((path, file.oid) for path, file in tree.items())))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = tree
        self.refs[ref] = sha
        return sha


class LoopbackHub:
    """
    The Hub. As a context manager it serves from its own thread until the block ends.

    Args:
        token: If given, the token that a write must carry, and the only one that a read may carry.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        repositories: The repositories by name.
        requests: Method and path of each request so far.
    """

    def __init__(self, token: str | None = None):
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository at a branch, pull request (`refs/pr/1`) or commit."""
        repository = self.repositories[name]
        tree = repository.commits[repository.refs.get(revision, revision)]
        return {path: file.data for path, file in sorted(tree.items())}


class HubError(Exception):
    """An answer other than success, with the headers by which huggingface_hub tells the cases apart."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for the client's delayed acknowledgement
    hub: LoopbackHub

    def handle_request(self) -> None:
        body = self.read_body()  # whatever happens next: what is left unread would be taken for the next request
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        method = "GET" if self.command == "HEAD" else self.command
        with self.hub.lock:
            self.hub.requests.append((self.command, unquote(url.path)))
            try:
                for route_method, pattern, handler in ROUTES:
                    match = re.fullmatch(pattern, url.path)
                    if match and method == route_method:
                        if handler is not Handler.put_object:  # a signed address, which needs no token
                            self.check_token()
                        handler(self, body, **{name: unquote(value) for name, value in match.groupdict("").items()})
                        return
                raise HubError(404, f"The loopback Hub has no {self.command} {url.path}")
            except HubError as error:
                headers = {"X-Error-Message": str(error)}
                if error.code:
                    headers["X-Error-Code"] = error.code
                self.answer_json({"error": str(error)}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # names that the standard library looks for

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: `hub.requests` is the log."""

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def check_token(self) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.token and given != self.hub.token and (given or self.command == "POST"):
            raise HubError(401, "Invalid credentials in Authorization header")

    def find(self, name: str) -> Repository:
        if name not in self.hub.repositories:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[name]

    def find_commit(self, name: str, revision: str) -> tuple[str, dict[str, File]]:
        repository = self.find(name)
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repository.commits[sha]

    # Account and repositories

    def whoami(self, body: bytes) -> None:
        self.answer_json({"type": "user", "name": USER, "fullname": USER, "orgs": []})

    def create_repository(self, body: bytes) -> None:
        wanted = json.loads(body)
        kind = wanted.get("type") or "model"
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        name = f"datasets/{name}" if kind == "dataset" else name
        answer = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repositories:
            self.answer_json({"error": f"You already created this {kind} repo", **answer}, 409)
            return
        self.hub.repositories[name] = Repository()
        self.hub.repositories[name].commit("main", {})
        self.answer_json(answer)

    def create_branch(self, body: bytes, name: str, revision: str) -> None:
        repository = self.find(name)
        if revision in repository.refs:
            raise HubError(409, f"Reference already exists: {revision}")
        start, _ = self.find_commit(name, json.loads(body or b"{}").get("startingPoint", "main"))
        repository.refs[revision] = start
        self.answer_json({})

    def describe(self, body: bytes, name: str, revision: str = "") -> None:
        sha, tree = self.find_commit(name, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(tree)]
        short = name.removeprefix("datasets/")
        self.answer_json({"id": short, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def list_tree(self, body: bytes, name: str, revision: str, folder: str = "") -> None:
        _, tree = self.find_commit(name, revision)
        inside = {path: file for path, file in sorted(tree.items()) if path.startswith(folder and folder + "/")}
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", [""])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, file in inside.items():
            below = path.removeprefix(folder).lstrip("/")
            if "/" in below and not recursive:
                path = path[: len(path) - len(below)] + below.split("/")[0]
                entries[path] = {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
                continue
            entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": len(file.data)}
            if file.is_lfs:
                entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": 134}
        self.answer_json(list(entries.values()))

    # Download

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        sha, tree = self.find_commit(name, revision)
        if path not in tree:
            raise HubError(404, "Entry not found", "EntryNotFound")
        file = tree[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(len(file.data)), "X-Linked-Etag": headers["ETag"]}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.answer(file.data, headers=headers)
            return
        end = len(file.data) - 1
        first, last = int(wanted[1]), min(int(wanted[2] or end), end)
        headers["Content-Range"] = f"bytes {first}-{last}/{end + 1}"
        self.answer(file.data[first : last + 1], 206, headers)

    # Upload, in the order of a push

    def validate_yaml(self, body: bytes) -> None:
        self.answer_json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        _, tree = self.find_commit(name, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": tree[file["path"]].etag if file["path"] in tree else None,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer_json({"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        self.find(name)
        objects = []
        for wanted in json.loads(body)["objects"]:
            oid = wanted["oid"]
            objects.append({"oid": oid, "size": wanted["size"]})
            if oid not in self.hub.objects:
                upload, verify = f"{self.hub.url}/objects/{oid}", f"{self.hub.url}/{name}.git/info/lfs/objects/verify"
                objects[-1]["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        self.answer_json({"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, "The content does not match the SHA-256 in the address")
        self.hub.objects[oid] = body
        self.answer(b"")

    def verify(self, body: bytes, name: str) -> None:
        wanted = json.loads(body)
        if len(self.hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(422, f"There is no object {wanted['oid']} of {wanted['size']} bytes")
        self.answer_json({})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        repository = self.find(name)
        _, tree = self.find_commit(name, revision)
        tree = dict(tree)
        for line in body.splitlines():
            item = json.loads(line)
            apply_to_tree(tree, item["key"], item["value"], self.hub.objects)
        answer = {}
        if self.query.get("create_pr") == ["1"]:
            repository.pull_requests += 1
            revision = f"refs/pr/{repository.pull_requests}"
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/{repository.pull_requests}"
        sha = repository.commit(revision, tree)
        self.answer_json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, **answer})


def apply_to_tree(tree: dict[str, File], key: str, value: dict[str, Any], objects: dict[str, bytes]) -> None:
    """One line of a commit, applied to a tree."""
    if key == "file":
        tree[value["path"]] = File(base64.b64decode(value["content"]), is_lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in objects:
            raise HubError(400, f"Your push lacks the LFS object of {value['path']}")
        tree[value["path"]] = File(objects[value["oid"]], is_lfs=True)
    elif key == "deletedFile":
        if tree.pop(value["path"], None) is None:
            raise HubError(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
    elif key != "header":
        raise HubError(400, f"The loopback Hub knows no commit operation {key!r}")


# A data set's name starts with "datasets/" in every address; a model's has "models/" before it under "/api/" alone.
NAME = r"(?P<name>(datasets/)?[^/]+/[^/]+)"
API = f"/api/(models/)?{NAME}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create_repository),
    ("POST", f"{API}/branch/{REVISION}", Handler.create_branch),
    ("GET", f"{API}(/revision/{REVISION})?", Handler.describe),
    ("GET", f"{API}/tree/{REVISION}(/(?P<folder>.+))?", Handler.list_tree),
    ("GET", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", Handler.put_object),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/verify", Handler.verify),
    ("POST", f"{API}/commit/{REVISION}", Handler.commit),
]
