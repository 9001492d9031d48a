from nanochat.data.tinyworld.exchange import Exchange


def test_text_and_messages_tell_the_same() -> None:
    plain = Exchange(ask="Hi!", say="Hello!")
    assert plain.as_text() == "User:\nHi!\nBot:\nHello!"
    assert plain.as_messages() == [
        {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello!"},
    ]


def test_a_tool_call_comes_before_the_answer() -> None:
    sums = Exchange(ask="1+2", say="1 + 2 is 3.", code="1+2", output="3", answer="3")
    assert sums.as_text() == "User:\n1+2\nTool:\n1+2\nResult:\n3\nBot:\n1 + 2 is 3."
    kinds = [part["type"] for part in sums.as_messages()[1]["content"]]
    assert kinds == ["python", "python_output", "text"]
