"""A small shop, cached."""

from __future__ import annotations

from collections import Counter

from flask import Flask, jsonify, render_template_string, request
from flask.typing import ResponseReturnValue

from evercache.integrations.flask import Cache, make_template_fragment_key

app = Flask(__name__)
app.config.from_mapping(
    SECRET_KEY="a secret from the configuration",
    EVERCACHE_URL="sentinel://127.0.0.1:26379,127.0.0.1:26380,127.0.0.1:26381/mymaster",
    CACHE_KEY_PREFIX="shop_",
    CACHE_DEFAULT_TIMEOUT=300,
)
app.config.from_prefixed_env()
cache = Cache(app)

#: What a real shop has in a database, and how often it was asked.
NAMES = {1: "Kettle", 2: "Lamp", 3: "Pan"}
KINDS = {1: "kitchen", 2: "light", 3: "kitchen"}
PRICES = {1: 10.0, 2: 20.0, 3: 30.0}
asked: Counter[str] = Counter()

FRONT = """
<h1>Shop</h1>
{% cache 300, "menu" %}<nav>{{ kinds() | join(", ") }}</nav>{% endcache %}
<ul>{% for number in names %}<li>{{ names[number] }}: {{ price(number) }} EUR</li>{% endfor %}</ul>
"""


@cache.memoize(timeout=600)
def price(number: int, currency: str = "EUR") -> float:
    asked["price"] += 1
    return round(PRICES[number] * {"EUR": 1.0, "SEK": 11.5}[currency], 2)


@cache.memoize()
def found(kind: str) -> list[str]:
    asked["found"] += 1
    return [NAMES[number] for number in NAMES if KINDS[number] == kind]


def kinds() -> list[str]:
    asked["kinds"] += 1
    return sorted(set(KINDS.values()))


@app.get("/")
@cache.cached(timeout=60, key_prefix="front")
def front() -> str:
    asked["front"] += 1
    return render_template_string(FRONT, names=NAMES, kinds=kinds, price=price)


@app.get("/search")
@cache.cached(timeout=60, query_string=True)
def search() -> ResponseReturnValue:
    asked["search"] += 1
    return jsonify(found(request.args["kind"]))


@app.get("/product/<int:number>")
def product(number: int) -> ResponseReturnValue:
    return jsonify(name=NAMES[number], price=price(number), sek=price(number, currency="SEK"))


@app.put("/product/<int:number>")
def change(number: int) -> ResponseReturnValue:
    told = request.get_json()
    PRICES[number], KINDS[number] = told["price"], told["kind"]
    cache.delete_memoized(price, number)
    cache.delete_memoized(price, number, currency="SEK")
    cache.delete_memoized(found)
    cache.delete_many("front", make_template_fragment_key("menu"))
    return jsonify(price=PRICES[number], kind=KINDS[number])
