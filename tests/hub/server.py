"""A server, in memory, with as much of the Hub's protocol as publishing and reading need, and faults on demand."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

TOKEN = "hf_server_for_tests"
LARGE = (".safetensors", ".parquet", ".gz", ".arrow", ".bin")
Answer = tuple[int, Any, dict[str, str]]


@dataclass
class Fault:
    """Answer the next `times` requests that match with `status` (0: drop the connection)."""

    method: str
    path: str
    status: int
    times: int = 1
    after: bool = False  # do the work first, then spoil the answer
    before: Callable[[], None] = lambda: None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blob:
    """A file in a commit; LFS or regular."""

    content: bytes
    large: bool

    @property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    """Commits are {path: blob}; a branch or tag names one of them."""

    repo_id: str
    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        parent = self.branches.get(branch)
        described = [str(parent), str(len(self.commits)), *(f"{path} {files[path].sha256}" for path in sorted(files))]
        commit = hashlib.sha1("\n".join(described).encode()).hexdigest()
        self.commits[commit], self.parents[commit], self.branches[branch] = files, parent, commit
        return commit

    def resolve(self, revision: str) -> str:
        commit = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit not in self.commits:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def history(self, branch: str) -> list[str]:
        """Return the commits of a branch, newest first."""
        commits = [self.branches[branch]]
        while parent := self.parents[commits[-1]]:
            commits.append(parent)
        return commits


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.answer: Answer = (
            status,
            {"error": message},
            {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}),
        )


class Server:
    """`with Server() as hub:` serves at `hub.url`; `hub.repositories` holds what was published."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def create(self, repo_id: str, private: bool = False) -> Repository:
        repository = self.repositories[repo_id] = Repository(repo_id, private)
        repository.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", large=False)})
        return repository

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: in two, each waits 40 ms for the first's acknowledgement
    hub: Server

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self.hub.log.append((self.command, path))
        fault = self.hub.fault(self.command, path)
        if fault:
            fault.before()
        answer: Answer | None = None if fault and not fault.after else self._answer(path, body)
        if fault and fault.status == 0:
            self.close_connection = True
            self.connection.close()
            return
        self._send(*((fault.status, {"error": "injected"}, fault.headers) if fault else answer or (500, {}, {})))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 - http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, content: Any, headers: dict[str, str]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, path: str, body: bytes) -> Answer:
        try:
            if not path.startswith("/storage/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise RefusalError(401, "Invalid username or password.")
            with self.hub.lock:
                return self._route(path, body)
        except RefusalError as refusal:
            return refusal.answer

    def _route(self, path: str, body: bytes) -> Answer:
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                groups = match.groupdict()
                repository = self._repository(groups.pop("repo")) if "repo" in groups else None
                return method(self, body, **({"repository": repository} if repository else {}), **groups)
        raise RefusalError(404, f"no route for {self.command} {path}")

    def _repository(self, repo_id: str) -> Repository:
        if repo_id not in self.hub.repositories:
            raise RefusalError(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[repo_id]

    def create_repository(self, body: bytes) -> Answer:
        request = json.loads(body)
        repo_id = f"{request['organization']}/{request['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}"}
        if repo_id in self.hub.repositories:
            return 409, url, {}
        self.hub.create(repo_id, request.get("visibility") == "private")
        return 200, url, {}

    def validate_yaml(self, body: bytes) -> Answer:
        front_matter = json.loads(body)["content"].split("---\n")[1]
        try:
            YAML(typ="safe").load(front_matter)
        except YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": []}, {}

    def info(self, body: bytes, repository: Repository, revision: str | None = None) -> Answer:
        commit = repository.resolve(revision or "main")
        files = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        return (
            200,
            {"id": repository.repo_id, "sha": commit, "private": repository.private, "siblings": files, "tags": []},
            {},
        )

    def refs(self, body: bytes, repository: Repository) -> Answer:
        def listed(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": names[name]} for name in sorted(names)]

        return (
            200,
            {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags), "converts": []},
            {},
        )

    def tree(self, body: bytes, repository: Repository, revision: str) -> Answer:
        files = repository.commits[repository.resolve(revision)]
        return 200, [_tree_row(path, files[path]) for path in sorted(files)], {}

    def branch(self, body: bytes, repository: Repository, name: str) -> Answer:
        if name in repository.branches:
            raise RefusalError(409, f"Reference refs/heads/{name} already exists")
        repository.branches[name] = repository.branches["main"]
        return 200, {}, {}

    def tag(self, body: bytes, repository: Repository, name: str) -> Answer:
        if self.command == "DELETE":
            del repository.tags[name]
            return 200, {}, {}
        new = json.loads(body)["tag"]
        if new in repository.tags:
            raise RefusalError(409, f"Tag reference exists already: {new}")
        repository.tags[new] = repository.resolve(name)
        return 200, {}, {}

    def preupload(self, body: bytes, repository: Repository, revision: str) -> Answer:
        repository.resolve(revision)
        files = json.loads(body)["files"]
        modes = [{"path": row["path"], "uploadMode": _mode(row["path"]), "shouldIgnore": False} for row in files]
        return 200, {"files": modes}, {}

    def lfs_batch(self, body: bytes, repository: Repository) -> Answer:
        objects = json.loads(body)["objects"]
        for row in objects:
            if row["oid"] not in repository.objects:
                upload = {"href": f"{self.hub.url}/storage/{repository.repo_id}/{row['oid']}"}
                row["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/{repository.repo_id}/verify"}}
        return 200, {"transfer": "basic", "objects": objects}, {}

    def store(self, body: bytes, repository: Repository, oid: str) -> Answer:
        if self.headers.get("Authorization"):
            raise RefusalError(400, "the token must not reach the storage")
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusalError(400, "sha256 mismatch")
        repository.objects[oid] = body
        return 200, {}, {}

    def verify(self, body: bytes, repository: Repository) -> Answer:
        request = json.loads(body)
        found = len(repository.objects.get(request["oid"], b"")) == request["size"]
        return (200 if found else 404), {}, {}

    def commit(self, body: bytes, repository: Repository, revision: str) -> Answer:
        header, *operations = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit", head := repository.resolve(revision)) != head:
            raise RefusalError(412, "The branch was updated since you opened this page.")
        files = dict(repository.commits[head])
        for operation in operations:
            _apply(repository, files, operation["key"], operation["value"])
        commit = repository.commit(revision, files)
        url = f"{self.hub.url}/{repository.repo_id}/commit/{commit}"
        return 200, {"commitOid": commit, "commitUrl": url}, {}

    def resolve(self, body: bytes, repository: Repository, revision: str, path: str) -> Answer:
        commit = repository.resolve(revision)
        blob = repository.commits[commit].get(path)
        if blob is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        return 200, blob.content, {"X-Repo-Commit": commit, "ETag": f'"{blob.sha256 if blob.large else blob.git_id}"'}


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?:models|datasets)/{_REPO}"
ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    ("POST /api/repos/create", Handler.create_repository),
    ("POST /api/validate-yaml", Handler.validate_yaml),
    (rf"GET {_API}", Handler.info),
    (rf"GET {_API}/revision/(?P<revision>.+)", Handler.info),
    (rf"GET {_API}/refs", Handler.refs),
    (rf"GET {_API}/tree/(?P<revision>.+)", Handler.tree),
    (rf"POST /api/models/{_REPO}/branch/(?P<name>.+)", Handler.branch),
    (rf"(?:POST|DELETE) /api/models/{_REPO}/tag/(?P<name>.+)", Handler.tag),
    (rf"POST /api/models/{_REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/(?P<revision>.+)", Handler.commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (rf"PUT /storage/{_REPO}/(?P<oid>.+)", Handler.store),
    (rf"POST /{_REPO}/verify", Handler.verify),
    (rf"(?:GET|HEAD) (?:/datasets)?/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]


def _mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"


def _tree_row(path: str, blob: Blob) -> dict[str, Any]:
    row = {"type": "file", "path": path, "oid": blob.git_id, "size": len(blob.content)}
    return row | ({"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.large else {})


def _apply(repository: Repository, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    if key == "file":
        files[value["path"]] = Blob(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in repository.objects:
            raise RefusalError(400, f"an LFS pointer names a file that does not exist: {value['path']}")
        files[value["path"]] = Blob(repository.objects[value["oid"]], large=True)
    elif key == "deletedFile":
        del files[value["path"]]
