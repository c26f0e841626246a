"""meeting-push：用户级实时推送。"""
