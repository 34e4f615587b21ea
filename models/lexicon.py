"""Words of the story grammar: who, where and with what a story can happen.

Only lists and small tables of the project's own; no text is taken from elsewhere. `grammar.py` draws from
them, `plots_alone.py` and `plots_together.py` use what was drawn through slots such as `{name}`.
"""

GIRLS = (
    *("Lily", "Mia", "Anna", "Rosa", "Ella", "Nina", "Zoe", "Ruby", "Maya", "Lucy"),
    *("Sara", "Emma", "Amy", "Kate", "Molly", "Daisy", "Ivy", "Clara", "Nora", "Jane"),
)
BOYS = (
    *("Tom", "Ben", "Max", "Sam", "Leo", "Jack", "Tim", "Finn", "Noah", "Luke"),
    *("Omar", "Theo", "Oscar", "Henry", "Adam", "Dan", "Felix", "Hugo", "Ravi", "Pip"),
)

ANIMAL_KINDS = ("fox", "rabbit", "bear", "mouse", "pig", "squirrel", "hedgehog", "turtle", "goat", "raccoon")
SIZES = ("little", "small", "young")
TRAITS = ("kind", "curious", "cheerful", "shy", "brave", "clever", "gentle", "playful", "quiet", "busy")

# Who gives advice.
HELPERS = ("mom", "grandma", "dad", "grandpa")
WOMEN = ("mom", "grandma")

HOMES = (
    "in a small house by the sea",
    "in a quiet village",
    "near a green forest",
    "at the foot of a tall hill",
    "on a sunny farm",
    "at the edge of a big town",
    "beside a wide river",
    "in a cozy cottage",
)

HOBBIES = (
    "to sing funny songs",
    "to draw pictures",
    "to climb trees",
    "to read books",
    "to dance in the kitchen",
    "to look at the stars",
    "to collect smooth stones",
    "to play outside",
    "to tell stories",
    "to ask questions",
    "to jump in puddles",
    "to help in the garden",
)

# name, preposition of rest, four spots to look at
PLACES = (
    ("the park", "in", ("under the bench", "behind the big tree", "near the swings", "beside the fountain")),
    ("the garden", "in", ("under the roses", "behind the shed", "next to the gate", "among the pumpkins")),
    ("the beach", "at", ("behind a rock", "under a towel", "next to an old boat", "near the sand castle")),
    ("the forest", "in", ("under a fallen log", "behind a tall pine", "in the bushes", "near the stream")),
    ("the farm", "at", ("behind the barn", "in the hay", "next to the fence", "under the cart")),
    ("the meadow", "in", ("in the tall grass", "behind a stone", "under the oak tree", "beside the path")),
    ("the market", "at", ("under a table", "behind a stand", "next to the well", "among the baskets")),
    ("the playground", "at", ("under the slide", "behind a hedge", "near the swings", "in the sandbox")),
)

COLORS = ("red", "blue", "green", "yellow", "orange", "purple", "white", "silver")
LOOKS = ("little", "shiny", "old", "new", "pretty", "striped", *COLORS)
TOYS = ("ball", "doll", "drum", "book", "hat", "scarf", "bell", "basket", "robot", "puppet", "whistle")
# a thing that breaks, the part that comes off, what mends it
BREAKABLE = (
    ("boat", "sail", "thread"),
    ("truck", "wheel", "a screw"),
    ("train", "wheel", "a screw"),
    ("kite", "tail", "string"),
    ("robot", "arm", "glue"),
    ("cart", "wheel", "a nail"),
    ("doll", "arm", "thread"),
    ("chair", "leg", "glue"),
)
FLYING = ("kite", "balloon", "ball", "hat", "paper plane")
HIGH_PLACES = ("the top of a tall tree", "the roof of a house", "a high wall", "a high branch")
# a baby, its parent, where the parent lives
BABIES = (
    ("kitten", "mother cat", "the old barn"),
    ("puppy", "mother dog", "the red house"),
    ("chick", "mother hen", "the hen house"),
    ("duckling", "mother duck", "the pond"),
    ("lamb", "mother sheep", "the green hill"),
    ("owlet", "mother owl", "the hollow tree"),
)
FOODS = ("apple", "sandwich", "cookie", "muffin", "pear", "pancake", "bun", "orange")
BAKES = ("cake", "pie", "loaf of bread", "plum tart", "carrot cake")
SEEDS = ("sunflower", "pumpkin", "tomato", "bean", "melon", "tulip")
GIFTS = ("card", "crown of flowers", "picture", "necklace of shells", "paper lantern", "wooden box")
TREASURES = ("gold coins", "bright shells", "old letters", "glass marbles", "tiny bells", "sweet candies")
FRAGILE = ("vase", "bowl", "cup", "lamp", "plate", "clock")
# a skill, the tool it needs, the motion that goes wrong, where it is practiced
SKILLS = (
    ("ride a bike", "bike", "fell into the grass", ("the park", "in")),
    ("skate", "pair of skates", "slipped and sat down hard", ("the playground", "at")),
    ("swim", "towel", "swallowed a lot of water", ("the lake", "at")),
    ("jump rope", "rope", "got tangled up", ("the school yard", "in")),
    ("play the flute", "flute", "made a terrible noise", ("the garden", "in")),
    ("juggle", "set of balls", "dropped everything", ("the meadow", "in")),
    ("paint", "box of paints", "made a big mess", ("the garden", "in")),
)
FEARS = (
    ("the dark", "the room was full of shadows", "the shadows were only coats and chairs"),
    ("thunder", "the sky rumbled loudly", "the thunder was only the clouds bumping together"),
    ("deep water", "the water looked cold and black", "the water was warm and held things up"),
    ("the tall slide", "the slide looked as high as a mountain", "the slide was fast and fun"),
    ("big dogs", "a big dog barked behind the fence", "the big dog only wanted to play"),
    ("the attic", "something creaked above the stairs", "the attic held nothing but old toys"),
)
NOISES = (
    ("a scratching sound", "a tiny kitten that wanted to come in", "gave it some milk"),
    ("a tapping sound", "a branch that knocked on the window", "tied the branch back"),
    ("a squeaking sound", "a puppy that was cold and wet", "let it in"),
    ("a rustling sound", "a toad that was lost in the leaves", "carried it to the garden"),
    ("a humming sound", "a sleepy bee behind the curtain", "let it fly out of the window"),
)
WISHES = ("a mountain of candy", "a castle of ice cream", "a room full of toys", "a golden house")
WEATHER = ("sunny", "bright", "warm", "cool", "windy", "cloudy", "fine")
TIMES = ("morning", "afternoon", "day")
