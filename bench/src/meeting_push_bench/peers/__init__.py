"""与别的做法比：``meeting-push bench peers``，同一次运行，轮流上场，做同样的活。"""
