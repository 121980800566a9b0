"""What the start-up scenario compares with: a command in Python that does nothing but import what most commands do."""

import argparse
import logging
import socket

__all__ = ["argparse", "logging", "socket"]
