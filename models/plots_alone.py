"""Plots in which one character meets a problem, sometimes with advice from a parent or grandparent.

Notation, read by `grammar.py`: an empty line ends a step; every line of a step is one alternative; `-`
is the
empty alternative (the step may be left out); `[a|b]` is a choice inside a line; `{slot}` is a word drawn
once
per story (`{Slot}` capitalized, `{a_slot}` with its article). `they`, `them`, `their` are the hero's
pronouns,
`h_they` ... the helper's.
"""

OPENING = """
Once upon a time, there was a {size} {kid} named {name}. {They} lived {home}. {They} loved {hobby}.
Once upon a time, there was {a_trait} {kid} named {name}. {They} loved {hobby}.
Once upon a time, {a_trait} {kid} named {name} lived {home}.
There once was a {size} {kid} named {name} who lived {home}. {They} was very {trait}.
{name} was a {size} {kid} who loved {hobby}. {They} lived {home} with {their} {helper}.
{name} was {a_trait} {kid}. {They} lived {home}. {They} liked {hobby}.
Long ago, {a_trait} {kid} named {name} lived {home}. Everyone liked {them}.
In a faraway land, there lived a {size} {kid} named {name}. {They} was {trait} and loved {hobby}.
"""

CLOSING = """
-
-
That night, {name} [slept very well|fell asleep with a smile|had happy dreams].
{name} was happy for the rest of the [day|week].
{name} [never forgot|always remembered] that day.
When the sun went down, {name} went home and told {their} {helper} [everything|the whole story].
{name} could not wait for the next day.
And {name} lived happily ever after.
"""

LOST = """
One {weather} {time}, {name} went {to_place} with {their} {toy}.
{name} had {a_toy}. {They} took it everywhere. One {weather} {time}, {they} took it {to_place}.
For {their} birthday, {name} got {a_toy}. The next day {they} took it {to_place} to play.

[But when it was time to go home|After a while], the {toy_noun} was [gone|not there]! {name} felt \
[sad|worried].
{name} played for a long time. Then {they} looked around. Where was the {toy_noun}? It was gone!
{They} put it down to chase a butterfly. When {they} came back, the {toy_noun} was [gone|missing].

{They} looked {spot1}, but it was not there. {They} looked {spot2}, but it was not there either.
First {they} looked {spot1}. There was only an old shoe. Then {they} looked {spot2}. There was only a snail.
{They} searched {spot1} and {spot2}, but {they} could not find it.

"I will never find it," said {name}. [A tear ran down {their} face.|{They} wanted to cry.]
{name} sat down and thought. "Where did I go today?" {they} asked {them}self.
"Do not give up," {name} told {them}self. [{They} took a deep breath.|{They} kept looking.]

At last, {they} looked {spot3}. There it was! The {toy} was [safe|a little dirty, but safe].
Then {they} saw something {look} {spot3}. It was the {toy_noun}! {name} [laughed|jumped] with joy.
Just then, a bird began to sing {spot3}. {name} went to look. The {toy_noun} was right there!

{name} hugged the {toy_noun} and ran home. {They} had learned to [keep looking|take care of {their} things].
"I found you!" said {name}. From that day on, {they} always took good care of {their} {toy_noun}.
{They} went home with the {toy_noun} in {their} arms. {Their} {helper} was [proud|happy] that {they} did \
not give up.
"""

FEAR = """
{name} liked [almost everything|many things], but {they} was afraid of {fear}.
There was only one thing that {name} did not like. {They} was afraid of {fear}.

One {time}, {fear_seen}. {name} [hid behind {their} {helper}|began to shake|ran away as fast as {they} \
could].
Then one {time}, {fear_seen}. "I want to go home!" cried {name}.

"What is wrong, {name}?" asked {their} {helper}. "I am scared of {fear}," said {name}.
{Their} {helper} took {their} hand. "Are you afraid of {fear}?" {h_they} asked. {name} nodded.

"When I was small, I was scared too," said {their} {helper}. "Let us look at it together."
"It is fine to be afraid," said {their} {helper}. "Being brave means trying [anyway|one small step]."
"Close your eyes and count to three," said {their} {helper}. "Then look again."

{name} took a deep breath. {They} took one small step, and then another.
{name} held {their} {helper}'s hand very tight. [Slowly|Very slowly], {they} opened {their} eyes.
{name} counted. One, two, three! Then {they} looked.

To {their} surprise, {fear_truth}. {name} began to [laugh|smile].
And what did {they} find out? {Fear_truth}! "Is that all?" said {name}.

After that, {name} was not afraid of {fear} anymore.
"I did it!" said {name}. {They} felt very brave. {Their} {helper} gave {them} a [big|warm] hug.
From that day on, {name} helped other children who were afraid of {fear}.
"""

TRUTH = """
One {weather} {time}, {name} was playing with a ball in the house. {They} knew that it was not allowed.
One {weather} {time}, {name} ran around the table, faster and faster. "Slow down," said {their} {helper}.

Crash! The {fragile} fell and broke into [many|a hundred] pieces.
Then there was a loud crash. {name} had broken the {fragile}!

{name} was scared. {They} hid the pieces [under the bed|behind the sofa] and said nothing.
"Oh no," said {name}. {They} pushed the pieces [under the bed|behind the sofa] and ran outside.

"Who broke the {fragile}?" asked {their} {helper}. "It was the wind," said {name}. But {they} felt bad \
inside.
At dinner, {their} {helper} asked about the {fragile}. {name} looked at the floor. {Their} tummy hurt.

That evening, {name} could not sleep. At last {they} got up. "I broke the {fragile}," {they} said. "I am \
sorry."
{name} began to cry. "It was me," {they} said. "I broke the {fragile}, and I did not tell the truth. I am \
sorry."

{Their} {helper} was quiet for a moment. Then {h_they} smiled. "Thank you for telling the truth," \
{h_they} said.
"I am glad that you told me," said {their} {helper}. "The truth is more important than a {fragile}."

Together they [cleaned up the pieces|glued the pieces together]. {name} felt [much better|as light as a \
feather].
The next day, {name} helped in the [kitchen|garden] to pay for a new {fragile}. {They} felt [proud|happy] \
again.

After that, {name} always told the truth.
-
"""

PLANT = """
One {weather} {time}, {name} found a [tiny|small] {seed} seed {at_place}. {They} took it home.
One spring {time}, {their} {helper} gave {name} a {seed} seed. "Take good care of it," {h_they} said.

{name} put it in the [ground|soft earth] and gave it some water. Then {they} sat down and waited.
{They} dug a little hole, put the seed inside and covered it up. "Please grow," {they} whispered.

Nothing happened. The next day, nothing happened again. "Why does it not grow?" asked {name}.
{They} looked every morning and every evening, but there was nothing to see. {name} was [sad|not happy].

"You must wait," said {their} {helper}. "Good things take time."
"Give it water and sun," said {their} {helper}. "And give it time."

So {name} watered it every day. {They} even [sang to it|told it stories].
{name} did not give up. {They} brought water every morning, even when it was [cold|raining].

Then one {time}, a tiny green leaf came out of the ground! It grew and grew.
After many days, {they} saw a bit of green. Day by day, the plant grew taller.

At the end of the summer, there was a huge {seed} plant. "Look what I grew!" said {name}.
Soon the {seed} plant was taller than {name}. {They} danced around it. {Their} {helper} clapped {h_their} \
hands.

{name} kept the new seeds and gave them to {their} friends. Now everyone could grow {a_seed}.
{name} had learned that good things take time.
"""

BAKING = """
One {weather} {time}, {name} wanted to bake {a_bake} for {their} {helper}.
It was {their} {helper}'s birthday, and {name} wanted to make {a_bake}.

{They} mixed the flour, the eggs and the milk in a big bowl. Then {they} put it in the oven.
{They} washed {their} hands and got a big bowl. Soon there was flour [all over the floor|on {their} nose].

But {name} began to [draw|read|play] and forgot about the time. Soon there was smoke in the kitchen!
{They} was so tired that {they} fell asleep. When {they} woke up, something smelled bad.

The {bake} was [black|burned]. "Oh no!" cried {name}. "It is ruined!"
"My {bake}!" said {name}. It was as black as coal and as hard as a rock.

{Their} {helper} came in. "Do not cry," {h_they} said. "Everyone burns something once. Let us try again."
{Their} {helper} opened the window and smiled. "We can make another one," {h_they} said. "I will help you."

This time, {name} watched the oven and did not move. [Tick, tock.|{They} counted the minutes.]
So they mixed and stirred again. {name} sat in front of the oven and waited.

The new {bake} was [golden|warm] and smelled [wonderful|sweet]. They ate it together, every bit of it.
When it was done, it was perfect. "This is the best {bake} in the world," said {their} {helper}.

{name} smiled. {They} knew now that it is fine to [try again|make mistakes].
-
"""

NOISE = """
One [cold|dark|windy] night, {name} was in bed. Suddenly {they} heard {noise}.
It was late, and the house was quiet. Then {name} heard {noise}.

"What is that?" whispered {name}. {They} pulled the blanket over {their} head.
{name} sat up. {Their} heart beat fast. "Is it a monster?" {they} wondered.

The sound came again, louder this time. {name} wanted to [hide|call for help], but {they} was curious too.
{They} waited for a moment. There it was again!

{They} took {their} [little|old] lamp and walked down the stairs, one step at a time.
So {name} got out of bed and lit a small lamp. {They} walked to the [door|window] on the tips of {their} \
toes.

Then {name} saw it. It was only {noise_cause}! {name} laughed out loud.
{They} looked around the corner. And what was it? It was {noise_cause}!

"You gave me a fright," said {name}. {They} {noise_act} and went back to bed.
{name} {noise_act}. "There you go," {they} said softly.

Now the house was quiet again, and {name} was not afraid anymore.
In the morning, {name} told {their} {helper} about it. "You were very brave," said {their} {helper}.
"""

WISH = """
One {weather} {time}, {name} found a [strange|shiny] stone {at_place}. "I am a magic stone," it said. \
"Make a wish!"
One {weather} {time}, {name} helped a small fish that was stuck in the mud. "Thank you," it said. "Make a \
wish!"

{name} thought for a moment. "I wish for {wish}!" {they} said. And there it was!
"Can you give me {wish}?" asked {name}. There was a flash of light, and the wish came true.

At first, {name} was very happy. {They} showed it to everyone and did not [sleep|rest] all day.
"Look at me!" cried {name}. {They} was the happiest {kid} in the world.

But soon {they} felt [alone|tired]. {Their} friends did not come anymore, and {their} {helper} looked sad.
But after three days, it was not fun anymore. {name} missed {their} {helper} and {their} old life.

{name} went back. "Please take it away," {they} said. "I want everything to be as it was."
"I do not want {wish} anymore," said {name}. "I only want to go home and be with my {helper}."

"That is a wise wish," said the voice. There was a soft sound, and everything was the same as before.
"You have learned something," the voice said kindly. And the magic was over.

{name} ran home and hugged {their} {helper}. {They} already had all that {they} needed.
At home, {their} {helper} had made hot soup. Nothing had ever tasted so good.
"""

STAR = """
Every night, {name} looked up at the [moon|brightest star]. "I want to [touch|catch] it," {they} said.
One clear night, {name} saw a [golden|bright] star above the hill. "I want to have it," {they} said.

First {they} climbed the tallest tree, but the sky was still too far away.
{They} jumped as high as {they} could. {They} stood on a chair. {They} even climbed onto the roof. It was \
too far.

"I will never reach it," said {name}. {They} walked home with {their} head down.
{name} was [tired|sad] and sat down beside the pond.

On the way, {they} met an old owl. "Why are you so sad?" asked the owl. {name} told the owl everything.
A frog looked up from the reeds. "What are you doing here so late?" it asked. {name} told the frog \
{their} wish.

"Look down, not up," was the answer. {name} looked into the water.
"Sometimes the sky comes down to us," was the answer. "Look into the water."

There it was, shining in the pond! {name} put one [hand|finger] into the water, and the light danced \
around it.
The whole sky was in the water! {name} reached out and touched the light. It [danced|trembled] and shone.

"I did it!" said {name}. From then on, {they} came to the pond on every clear night.
"Thank you," said {name}. {They} went home with a heart full of light.
"""

ALONE = {
    "lost": LOST,
    "fear": FEAR,
    "truth": TRUTH,
    "plant": PLANT,
    "baking": BAKING,
    "noise": NOISE,
    "wish": WISH,
    "star": STAR,
}
