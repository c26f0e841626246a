"""测试。``tests`` 是包：各目录可有同名文件，并可 ``from tests.support... import ...``。"""
