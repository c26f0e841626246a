"""Python SDK 的测试。"""
