"""Label Studio's client: the pictures of tasks, from the one server that the operator named."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import requests

from web_client.api.uploads import Picture, check_picture
from web_client.errors import ApiError

SECONDS = (2.0, 20.0)  # to connect, and between two parts of an answer


class LabelStudio:
    """Several threads may use one object.

    Args:
        url: its address. A task that names another one is refused, and redirects are not followed, so the key goes
            nowhere else.
        key: a personal access token, which is a JWT, or a legacy token.
        max_bytes: of a picture.
    """

    def __init__(self, url: str, key: str, max_bytes: int) -> None:
        self.url = url.rstrip("/")
        self.max_bytes = max_bytes
        self._key = key
        self._header = "" if key.count(".") == 2 else f"Token {key}"
        self._session = requests.Session()
        self._session.trust_env = False  # .netrc would replace the key

    def picture(self, address: str) -> Picture:
        """The picture at a task's address, such as ``/data/upload/1/0123abcd-photo.jpg``; raises ApiError."""
        path = address.removeprefix(self.url)
        if not path.startswith("/data/") or ".." in unquote(path).split("/"):
            raise _missing(400, f"Only pictures that Label Studio serves below {self.url}/data/ are fetched.")
        data = bytearray()
        try:
            with self._get(path) as response:
                for part in response.iter_content(1 << 16):
                    data += part
                    if len(data) > self.max_bytes:
                        break
        except requests.RequestException as error:
            kind = type(error).__name__
            raise _missing(502, f"Label Studio at {self.url} does not answer ({kind}).") from None
        return check_picture(bytes(data), "picture")

    def _get(self, path: str) -> requests.Response:
        """A personal access token is exchanged for an access token, which lives for minutes, and then again."""
        if self._header:
            response = self._request("GET", path, headers={"Authorization": self._header})
            if response.status_code != 401 or self._header.startswith("Token"):
                return _checked(response)
            response.close()
        with _checked(self._request("POST", "/api/token/refresh/", json={"refresh": self._key})) as response:
            self._header = header = f"Bearer {response.json()['access']}"
        return _checked(self._request("GET", path, headers={"Authorization": header}))

    def _request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self._session.request(
            method, self.url + path, stream=True, allow_redirects=False, timeout=SECONDS, **kwargs
        )


def _checked(response: requests.Response) -> requests.Response:
    if response.status_code != 200:
        response.close()
        raise _missing(502, f"Label Studio answered {response.status_code}: check LABEL_STUDIO_API_KEY.")
    return response


def _missing(status: int, message: str) -> ApiError:
    return ApiError(status, "missing_image", message, "image")
