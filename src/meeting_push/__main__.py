"""``python -m meeting_push``。"""

from .cli import main

main()
