-- KubeRay 1.6 and 1.7. Its condition Ready says only that some endpoint is there, so Serve's applications count, too.
if obj.status == nil or obj.status.conditions == nil then
  return { status = "Progressing", message = "KubeRay has not seen it yet" }
end

local found = {}
for _, condition in ipairs(obj.status.conditions) do
  found[condition.type] = condition
end

local function holds(type)
  return found[type] ~= nil and found[type].status == "True"
end

-- The first application in the order of names that has one of these statuses, in words.
local function application(cluster, statuses)
  if cluster == nil or cluster.applicationStatuses == nil then
    return nil
  end
  local names = {}
  for name, _ in pairs(cluster.applicationStatuses) do
    table.insert(names, name)
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local app = cluster.applicationStatuses[name]
    if statuses[app.status] then
      local message = "Application " .. name .. " is " .. app.status
      if app.message ~= nil and app.message ~= "" then
        message = message .. ": " .. app.message
      end
      return message
    end
  end
  return nil
end

-- Both are final until somebody acts. A spec that KubeRay refuses never becomes the observed generation; after a good one
-- it leaves the condition there until something answers.
local ready = found["Ready"]
local seen = obj.status.observedGeneration == obj.metadata.generation
if ready ~= nil and ((ready.reason == "ValidationFailed" and not seen) or ready.reason == "InitializingTimeout") then
  return { status = "Degraded", message = ready.message }
end
if holds("Suspended") then
  return { status = "Suspended", message = found["Suspended"].message }
end
if not seen then
  return { status = "Progressing", message = "KubeRay has not seen the newest change yet" }
end

local active = obj.status.activeServiceStatus
local pending = obj.status.pendingServiceStatus
local failed = application(active, { DEPLOY_FAILED = true, UNHEALTHY = true })
  or application(pending, { DEPLOY_FAILED = true })
if failed ~= nil then
  return { status = "Degraded", message = failed }
end
for _, type in ipairs({ "Suspending", "RollbackInProgress", "UpgradeInProgress" }) do
  if holds(type) then
    return { status = "Progressing", message = found[type].message }
  end
end
if ready == nil then
  return { status = "Progressing", message = "KubeRay has not said whether it answers" }
end
if ready.reason == "ValidationFailed" then
  return { status = "Progressing", message = "KubeRay takes it now, and nothing answers yet" }
end
if ready.status ~= "True" then
  if ready.reason == "ZeroServeEndpoints" then
    return { status = "Degraded", message = ready.message }
  end
  return { status = "Progressing", message = ready.message }
end
local moving = application(active, { NOT_STARTED = true, DEPLOYING = true, DELETING = true })
if moving ~= nil then
  return { status = "Progressing", message = moving }
end
return { status = "Healthy", message = ready.message }
