"""A small client of the server of segcft's page. It needs NumPy alone.

>>> client = Client("http://127.0.0.1:8000")
>>> changed = change(client, "chest-sim", Scan(pixels), {"heart_area": 1800})
"""

from segcft_client.change import Changed, change, read
from segcft_client.client import Answer, Client, ServerError
from segcft_client.controls import Control, controls
from segcft_client.scan import Scan

__all__ = ["Answer", "Changed", "Client", "Control", "Scan", "ServerError", "change", "controls", "read"]
