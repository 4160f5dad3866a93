"""The openai client as its documentation shows it: OPENAI_BASE_URL and OPENAI_API_KEY, nothing else."""
import openai

client = openai.OpenAI(max_retries=0)
messages = [{"role": "user", "content": "Which door?"}]
try:
    print("whole:", client.chat.completions.create(model="llm", messages=messages).choices[0].message.content)
    pieces = [c.choices[0].delta.content for c in client.chat.completions.create(model="llm", messages=messages, stream=True)]
    print("pieces:", len(pieces), "".join(pieces))
except openai.APIStatusError as e:
    print("refused:", e.status_code, type(e).__name__, e.body.get("error") if isinstance(e.body, dict) else e.body)
