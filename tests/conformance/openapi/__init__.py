"""OpenAPI 与真的服务器一致。"""
